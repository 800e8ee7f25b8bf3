"""Frames that can be told apart, and the ways to get them into a guest."""
