"""EEG devices that do not exist, for demonstrations, tests and benchmarks.

    rows.py, scenario.py, neural_mass.py      what the wearer's brain does: Blocks of µV
    file.py, mixture.py                       a recording; a head with a seizure added to it
        |
    blocks.py, pacer.py                       cut into chunks, when they are due
        v
    device.py                                 a real Lab Streaming Layer outlet,
                                              and one of ``Markers`` with the ground truth

Everything a device sends says that it is simulated.
"""
