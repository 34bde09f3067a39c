"""Texts by a vision-language model with a hierarchical chain of thought (HCoT, HCoT-MIS; paper 3.2)."""
