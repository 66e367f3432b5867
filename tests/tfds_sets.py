"""Small real TFDS sets on disk."""

import io

from PIL import Image


def png(image):
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, 'PNG')
    return stream.getvalue()


def prepare(folder, name, features, examples):
    """A real set on disk, written as array_record by TFDS itself. name: in CamelCase. examples:
    {split: [example]}."""
    import tensorflow_datasets as tfds

    def info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def split_generators(self, dl_manager):
        return {split: enumerate(rows) for split, rows in examples.items()}

    made = type(
        name,
        (tfds.core.GeneratorBasedBuilder,),
        {
            '__module__': __name__,
            'VERSION': tfds.core.Version('1.0.0'),
            '_info': info,
            '_split_generators': split_generators,
            '_generate_examples': lambda self: (),
        },
    )  # abstract, not used: the splits are given
    made(data_dir=str(folder), file_format='array_record').download_and_prepare()
