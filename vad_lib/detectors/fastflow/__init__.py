"""FastFlow: normalising flows over the features of a frozen backbone."""
