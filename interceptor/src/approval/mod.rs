//! Approvals: held commands, the humans who answer, and the single-use grants that result.
