"""Write a new plugin: a name and a variant go in, a folder that installs and passes its tests comes out.

`naming` says what the plugin's things are called, `variants` what it is made of, and `rendering` fills
the folder `template` with both. The verb `lmkit new` is the only user.
"""
