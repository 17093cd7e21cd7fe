"""Data sets that are registered and not there, whatever the machine holds that runs the tests."""

from detectron2.data import MetadataCatalog


def make_absent(name, folder, monkeypatch):
    """Have a data set be looked for in a folder without it, which is also `DETECTRON2_DATASETS`: Detectron2 chose the
    places of its own when it was imported."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(folder))
    entry = vars(MetadataCatalog.get(name))  # the entry itself lets nobody change what it has
    for key in {"json_file", "image_root", "dirname"} & entry.keys():
        monkeypatch.setitem(entry, key, str(folder / name))
