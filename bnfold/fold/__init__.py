def fold(): return 1
