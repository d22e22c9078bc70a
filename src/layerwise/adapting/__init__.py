"""Acting on advice: a treatment carried out on the user's data, and the folder that holds the adapted net."""
