"""Services: thin translations between the network and the library."""
