"""What is done with finished runs, and with what runs need: report, predict, export, prefetch."""
