"""Networks alone: a file each, importing nothing but torch, so that the file itself travels in a Zoo package."""
