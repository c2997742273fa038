"""Recipes: which passes a step makes and how the losses mix."""
