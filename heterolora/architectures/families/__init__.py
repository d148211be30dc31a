"""The families that can be wired; each file here registers those that share a layout."""
