"""What lies in a model folder, form by form: tensors, tokenizers, preprocessing. Read as data; no code runs."""
