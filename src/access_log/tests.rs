//! Hostile bytes, full pipes and renamed files.
