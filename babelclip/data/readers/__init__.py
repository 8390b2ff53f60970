"""One module per kind of source. Each gives tables of strings; `babelclip.data.sources` chooses between them."""
