"""Answers to questions about a model and its loss; they leave the model as they found it."""
