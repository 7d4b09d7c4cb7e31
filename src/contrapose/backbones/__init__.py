"""Models behind one contract: a backbone predicts, and never hears of winners, beta or loss."""
