"""Pictures of numbers by site; needs numpy and matplotlib."""
