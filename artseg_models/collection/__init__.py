"""A lab's own collection of models: a folder that any web server can serve and every artseg can look up."""
