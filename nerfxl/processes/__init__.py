"""The processes of a run: who they are, where they meet, what they send, who starts them."""
