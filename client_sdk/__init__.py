"""Not a package of the distribution: it gives the tests below names of their own (`client_sdk.tests…`)."""
