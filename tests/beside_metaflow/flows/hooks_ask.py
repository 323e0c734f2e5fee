print(open("said").read())
