"""A small text about nothing in particular, to see whether a model forgot how to write.

Written for this project. Its loss means little by itself; how it changes from base to tuned tells
what the tuning cost elsewhere.
"""

GENERAL_TEXT = """\
The ferry to the island leaves at seven in the morning, and in winter it is often the only one of \
the day. Those who miss it walk back up the hill to the bakery, where the owner has learned to \
keep two tables free and a pot of coffee warm. Nobody complains for long. The harbour is quiet, \
the gulls have gone out with the fishing boats, and there is nothing to do but read yesterday's \
newspaper and listen to the rain.

Water boils at a lower temperature on a mountain than at sea level, because the air above it \
presses less. A cook who moves from the coast to a high valley therefore has to be patient with \
beans and potatoes: the water bubbles as before, but it is not as hot, and the food needs more \
time. A pressure cooker solves the problem by closing the lid and keeping the steam inside.

"Did you bring the map?" asked Helen.

"I thought you had it," said her brother, and put down the rucksack. They looked at each other, \
then at the fork in the path, and began to laugh. Twenty minutes later a farmer came by on a \
tractor and told them that both ways led to the lake; the left one was shorter, the right one was \
dry.

In 1900 most people in Europe lived in the country and worked on the land. A hundred years later \
three out of four lived in towns. Railways, factories and schools drew them there, one family at a \
time, and the villages they left behind became smaller and older. Some were given up altogether. \
Others found a new life when city people came to spend their summers, repaired the old stone \
houses and opened small hotels.

def average(numbers):
    total = 0
    for number in numbers:
        total = total + number
    return total / len(numbers)

To plant a young tree, dig a hole twice as wide as its roots and no deeper. Loosen the soil at the \
bottom, set the tree in the middle, and fill the hole with the earth that came out of it. Press it \
down with your foot, give it two buckets of water, and tie the trunk to a stake so that the wind \
cannot rock it. In a dry summer, water it again once a week.
"""
