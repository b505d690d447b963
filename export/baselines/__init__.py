"""What a plug is compared with: retrieved notes, soft tokens or LoRA tuned for each person.

What may not enter: the plug's own methods.
"""
