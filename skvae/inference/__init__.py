"""Questions to a fitted model: scores, explanations, completions, new rows."""
