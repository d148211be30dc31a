"""Sites: how they were scored and ranked, and how far searches and proxies agree on them."""
