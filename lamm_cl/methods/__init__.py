"""One file a paper.  A card names its pieces "file.Class"; nothing is registered."""
