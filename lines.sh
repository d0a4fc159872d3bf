cat main.py $(find handlers -name '*.py') | wc -l
