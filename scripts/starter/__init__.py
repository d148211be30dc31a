"""The text on which the embedded model is pretrained, and the pairs of its task, by a grammar."""
