"""Files that were damaged by accident or made to harm, over every format that the package reads."""
