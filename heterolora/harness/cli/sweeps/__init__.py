"""Many runs: plan them, launch them, and say how each ended."""
