"""Numbers by site as pictures; needs numpy and matplotlib."""
