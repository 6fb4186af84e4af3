import ast
import copy
import re
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
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


class Stubs:
    """The types of a module's public names, and of what these name, as the text of a stub file."""

    def __init__(self, source):
        self.defined = {}  # name: its statement
        for node in ast.parse(source).body:
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                for alias in node.names:
                    only = copy.copy(node)
                    only.names = [alias]
                    self.defined[alias.asname or alias.name] = only
            elif isinstance(node, (ast.ClassDef, ast.FunctionDef)):
                self.defined[node.name] = node
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                self.defined[node.targets[0].id] = node

    def __str__(self):
        names = ['annotations', '__version__', '__all__']
        names += ast.literal_eval(self.defined['__all__'].value)
        stubs = {}
        for name in names:  # grows while it is read
            if name in self.defined and name not in stubs:
                stubs[name] = self.stub(self.defined[name])
                names += [each.id for each in ast.walk(stubs[name]) if isinstance(each, ast.Name)]
        in_order = sorted(stubs.values(), key=lambda node: node.lineno)
        return '\n'.join(map(ast.unparse, map(ast.fix_missing_locations, in_order))) + '\n'

    def stub(self, node):
        """The statement without what only runs: bodies of functions, and values of defaults."""
        docstring = node.body[:1] if hasattr(node, 'body') and ast.get_docstring(node) else []
        if isinstance(node, ast.FunctionDef):
            for defaults in (node.args.defaults, node.args.kw_defaults):
                defaults[:] = [default and ast.Constant(...) for default in defaults]
            node.body = [*docstring, ast.Expr(ast.Constant(...))]
        elif isinstance(node, ast.AnnAssign):
            node.value = node.value and ast.Constant(...)
        elif isinstance(node, ast.ClassDef):
            node.body = [*docstring, *self.members(node), ast.Expr(ast.Constant(...))]
        return node

    def members(self, node):
        for each in node.body:
            if isinstance(each, ast.Assign):
                yield each
            elif isinstance(each, ast.AnnAssign):
                doc = each.value.args[2:3] if isinstance(each.value, ast.Call) else []
                yield self.stub(each)
                yield from map(ast.Expr, doc)  # of an option
            elif isinstance(each, ast.FunctionDef) and is_public(each.name):
                for found in ast.walk(each) if each.name == '__init__' else ():
                    if (isinstance(found, ast.AnnAssign) and isinstance(found.target, ast.Attribute)
                            and is_public(found.target.attr)):
                        name = ast.Name(found.target.attr)
                        yield ast.AnnAssign(name, found.annotation, simple=1)
                yield self.stub(each)


def is_public(name):
    return not re.match('_[^_]', name)


class BuildModule(build_py):
    """With stubs: a type checker takes no types from a single module that is installed, unless a
    package of stubs stands beside it, https://peps.python.org/pep-0561/."""

    def run(self):
        super().run()
        stubs = Path(self.build_lib, 'dyna_veggie-stubs')
        stubs.mkdir(parents=True, exist_ok=True)
        (stubs / '__init__.pyi').write_text(str(Stubs(MODULE)), 'utf-8')


setup(
    cmdclass={'build_py': BuildModule, 'sdist': SourceDistribution},
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
