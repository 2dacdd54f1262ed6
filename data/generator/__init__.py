"""How the embedded dataset is made: what is in it (`plan`), its texts and labels, and the synthesis of its sounds."""
