"""Tables as they are compared: reading, columns and their kinds, features of each column, views of all together."""
