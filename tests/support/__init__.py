"""What tests share: tiny models, toy runs, computations by hand, made-up records."""
