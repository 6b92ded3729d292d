"""Task -> raw splits -> tokenised Arrow -> batches.

``loading`` a task's rows, checked; ``hub`` revisions and errors; ``splits`` carving dev and test; ``tokenised`` Arrow
splits and batches; ``vectors`` a frozen vector per row; ``prepared`` what stage 1 leaves for the others.
"""
