"""Task -> raw splits -> tokenised Arrow -> batches.

``loading`` a task's rows, checked; ``headers`` its files' columns; ``hub`` revisions and errors; ``splits`` carving dev
and test; ``joined`` the splits of a task, or of several as one; ``tokenised`` Arrow splits and batches; ``vectors`` a
frozen vector per row; ``prepared`` what stage 1 leaves for the others.
"""
