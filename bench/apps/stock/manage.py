"""Django's command line for a contender: its folder is the first argument."""

import os
import sys
from pathlib import Path

APPS = Path(__file__).resolve().parent.parent

if __name__ == "__main__":
    contender = sys.argv.pop(1)
    sys.path[:0] = [str(APPS), str(APPS / contender)]
    os.environ["DJANGO_SETTINGS_MODULE"] = "project.settings"
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)
