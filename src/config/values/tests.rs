//! Words that are right and words that are wrong.
