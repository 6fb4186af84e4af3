import re
from pathlib import Path

from setuptools import setup
from setuptools.command.sdist import sdist

HERE = Path(__file__).parent
README = (HERE / 'README.rst').read_text('utf-8')
MODULE = (HERE / 'dyna_veggie.py').read_text('utf-8')
# for moto's server; the extra "server" would bring 25 packages that only other services than
# DynamoDB need
MOTO = ['moto[dynamodb]>=5', 'flask', 'flask-cors']


class SourceDistribution(sdist):
    """With what the tests need, too: they read the READMEs, the tools and what CI runs."""

    def make_distribution(self):
        for name in ('.ci/run', 'Makefile', 'test_dyna_veggie.py'):
            self.filelist.include(name)
        for folder in ('benchmarks', 'examples', 'tools'):
            self.filelist.graft(folder)
        for pattern in ('*.py[cod]', '__pycache__'):
            self.filelist.global_exclude(pattern)
        super().make_distribution()


setup(
    cmdclass={'sdist': SourceDistribution},
    name='dyna-veggie',
    # read, not imported: what the module imports may not be installed yet
    version=re.search(r"^__version__ = '(.+)'$", MODULE, re.MULTILINE)[1],
    description='A DynamoDB result backend for Celery, in one module',
    # without its pictures: a package index has only the text
    long_description=re.sub(r'^\.\. image:: .*\n(?: +:.*\n)*\n', '', README, flags=re.MULTILINE),
    long_description_content_type='text/x-rst',
    author='The Dyna-Veggie developers',
    license='Apache-2.0',
    license_files=['LICENSE'],
    keywords='celery dynamodb aws botocore result backend task queue',
    classifiers=[
        'Development Status :: 4 - Beta',
        'Framework :: Celery',
        'Intended Audience :: Developers',
        'Operating System :: OS Independent',
        'Programming Language :: Python :: 3',
        'Programming Language :: Python :: 3 :: Only',
        'Programming Language :: Python :: 3.9',
        'Programming Language :: Python :: 3.10',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Programming Language :: Python :: 3.13',
        'Programming Language :: Python :: 3.14',
        'Programming Language :: Python :: 3.15',
        'Topic :: Database',
        'Topic :: System :: Distributed Computing',
    ],
    python_requires='>=3.9',
    py_modules=['dyna_veggie'],
    install_requires=[
        'celery>=5.3',
        'botocore>=1.29.164',   # the first with ReturnValuesOnConditionCheckFailure
    ],
    extras_require={
        # for tools/dynamodb_local.py: Docker, and the emulator where ministack does not run
        'demo': ['docker', *(f"{name}; python_version < '3.10'" for name in MOTO)],
        'test': [
            'pytest',
            'pytest-rerunfailures',
            'pytest-xdist',
            'hypothesis',
            'freezegun',
            'docker',
            *MOTO,
            'gevent',
            'eventlet',
            'nox',
            'psutil',
            'boto3',        # for Celery's own backend
            # for SQS as the broker; the extra "sqs" of kombu 5.3 wants a release without wheels
            'pycurl',
            'pyyaml',
            'python-hcl2',
            'readme_renderer',
            'build',
            'twine',
        ],
        'bench': ['celery[redis,sqs]'],
        'canvases': ['celery[redis]'],
        'conformance': ['celery[redis]', 'pydantic', 'pytest-rerunfailures', 'pytest-timeout',
                        'pytest-subtests'],
        'soak': ['celery[redis]', 'docker', 'gevent', 'matplotlib'],
        'lint': ['mypy<3', 'ruff==0.17.*', 'types-psutil'],     # newer ones complain of more
    },
    entry_points={
        'celery.result_backends': ['dynamodb = dyna_veggie:DynamoDBBackend'],
        'celery.commands': ['dynamodb = dyna_veggie:commands'],
    },
)
