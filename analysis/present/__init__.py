"""Answers for people and programs: sections, text, Markdown, JSON, the page and its pictures, the paper's tables."""
