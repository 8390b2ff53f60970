"""Search: pictures made searchable by text in any language."""
