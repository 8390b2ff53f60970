"""The service: collections over HTTP, for people (the page), for programs (`/v1`) and for clip-retrieval's clients."""
