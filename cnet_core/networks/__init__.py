"""Networks in LDM key layout, each with injectable layers (`operations`) and attention."""
