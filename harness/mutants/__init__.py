"""Kernels that are wrong on purpose: do the cases tell them from a good one?"""
