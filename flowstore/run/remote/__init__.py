"""Tasks on other machines: hosts, the messages that they exchange with the driver, and the engines that start them."""
