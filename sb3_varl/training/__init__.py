"""The callback: when to ask, about which states, where the answers go, and how a run that broke off goes on."""
