"""The rooms of scripts/bench: shapes (what is moved), links (over what), contestants (by what), transfer and sst (how it is
measured), report (what is written)."""
