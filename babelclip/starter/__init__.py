"""The starter: a real CLIP and real captions, assembled from packages of public indexes."""
