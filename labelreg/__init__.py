"""Does label regularisation help when you fine-tune? The experiment (Kobyzev et al., 2023)."""
