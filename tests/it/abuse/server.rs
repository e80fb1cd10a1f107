//! Servers that send what they should not: too much, too large, or text that is not text.
