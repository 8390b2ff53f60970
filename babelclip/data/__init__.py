"""What goes in: captions (`babelclip.data.captions`) and pictures (`babelclip.data.images`)."""
