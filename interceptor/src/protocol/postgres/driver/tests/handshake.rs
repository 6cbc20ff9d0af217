//! A fake target that counts what reaches it.
